"""``--task el_multilingual_translation``: models that have an encoder and a decoder for each pair of languages."""

from __future__ import annotations

from typing import Any, List

from fairseq.tasks import register_task
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask

from fairseq_el.errors import CheckpointMismatchError, raise_problems, shortened
from fairseq_el.tasks.checkpoint_checks import check_dictionaries_on_load
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.option_checks import CommandLine


@register_task("el_multilingual_translation")
class ELMultilingualTranslationTask(ELTask, MultilingualTranslationTask):
    """fairseq's ``multilingual_translation``, decoding with EL-attention.

    fairseq builds and loads the model of the pair that ``--source-lang`` and ``--target-lang`` name, and no other.
    """

    takes_constraints = False
    dictionary_hint = (
        "Run fairseq-preprocess again with the dictionaries the model was trained with: --srcdict dict.SRC.txt "
        "--tgtdict dict.TGT.txt. DATA needs a dictionary for every language of --lang-pairs"
    )

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Any:
        """Sets up the task as stock does, after a check of the whole command line.

        Raises:
            OptionError: options of the command line can't be used; every problem is named.
        """
        command = CommandLine.of_task(cfg)
        decodes = command.get("generation", "beam") is not None  # fairseq-validate and training take all pairs
        raise_problems(_language_problems(cfg, command.reads_a_checkpoint and decodes))
        return super().setup_task(cfg, **kwargs)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        if from_checkpoint and hasattr(cfg, "lang_pairs"):
            differences = self._differences(cfg)
            if differences:
                raise CheckpointMismatchError(
                    "The languages must be given as the model was trained:\n"
                    + "\n".join(f"  - {difference}" for difference in differences)
                )
        model = super().build_model(cfg, from_checkpoint)
        if not self.training:
            for of_pair in model.models.values():
                check_dictionaries_on_load(of_pair, self, CommandLine.of_task(cfg))
        return model

    def _differences(self, trained: Any) -> List[str]:
        """Lists the options of languages that are not those of a checkpoint, ``trained``."""
        found = []
        pairs, given = _pairs(trained.lang_pairs), _pairs(self.args.lang_pairs)
        if set(pairs) != set(given):
            found.append(f"--lang-pairs must be {','.join(pairs)}; it is {','.join(given)}")
        side, given_side = getattr(trained, "encoder_langtok", None), self.args.encoder_langtok
        if side != given_side:
            rule = "not be given" if side is None else f"be {side}"
            found.append(f"--encoder-langtok must {rule}; it is {given_side or 'not given'}")
        if bool(getattr(trained, "decoder_langtok", False)) != bool(self.args.decoder_langtok):
            found.append(f"--decoder-langtok must {'not ' if self.args.decoder_langtok else ''}be given")
        return found


def _pairs(value: Any) -> List[str]:
    return value.split(",") if isinstance(value, str) else list(value)


def _language_problems(cfg: Any, decodes: bool) -> List[str]:
    """Lists what is wrong with the options that name languages; stock would fail with a traceback.

    Args:
        decodes: the program decodes, for which there must be one pair.
    """
    if not cfg.lang_pairs:
        return ["--lang-pairs must list the pairs that the model was trained with, as de-en,fr-en; it is not given"]
    pairs = _pairs(cfg.lang_pairs)
    odd = [pair for pair in pairs if len(pair.split("-")) != 2 or not all(pair.split("-"))]
    if odd:
        return [f"--lang-pairs must be pairs SOURCE-TARGET with commas between them; one is {shortened(repr(odd[0]))}"]
    source, target = cfg.source_lang, cfg.target_lang
    if source is None and target is None and not decodes:
        return []
    if source is None or target is None:
        missing = [f"--{side}-lang" for side, name in (("source", source), ("target", target)) if name is None]
        return [
            f"--source-lang and --target-lang must both be given, because they choose the model of one pair, of "
            f"{', '.join(pairs)}; {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
        ]
    if f"{source}-{target}" not in pairs:
        return [
            "--source-lang and --target-lang must be a pair of --lang-pairs, because the model has an encoder and a "
            f"decoder for each: {', '.join(pairs)}; they are {shortened(repr(f'{source}-{target}'))}"
        ]
    return []
