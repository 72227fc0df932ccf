"""What language modeling tasks have in common that cut or draw their samples themselves, with nothing preprocessed."""

from fairseq_el.tasks.el_language_modeling import ELLanguageModelingTask


class FixedLengthTask(ELLanguageModelingTask):
    """Samples of ``--tokens-per-sample`` words, but for the last: no task of its own."""

    keeps_last_training_batch = True
