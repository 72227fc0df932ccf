"""``--task el_speech_to_text``: fairseq's models of speech, decoding with EL-attention."""

# No postponed annotations here: fairseq reads the types of the fields.
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from fairseq.data.audio.audio_utils import get_features_or_waveform
from fairseq.tasks import register_task
from fairseq.tasks.speech_to_text import SpeechToTextTask

from fairseq_el.errors import CheckpointMismatchError, FairseqElError, OptionError, summary_of
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.option_checks import CommandLine
from fairseq_el.tasks.speech_data import CheckedFeatures, check_manifest, language_tag_problems, read_config

# The weights whose size goes with that of a frame.
_READ_FEATURES = ("encoder.subsample.conv_layers.0.weight", "encoder.subsample.out.weight", "encoder.out.weight")


@register_task("el_speech_to_text")
class ELSpeechToTextTask(ELTask, SpeechToTextTask):
    """fairseq's ``speech_to_text``, decoding with EL-attention. Encoders run as they are."""

    takes_constraints = False
    dictionary_hint = "vocab_filename of --config-yaml must name the dictionary that the model was trained with"

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Any:
        """Sets up the task as stock does, after a check of the command line and of the files in DATA.

        Raises:
            OptionError: options of the command line, or the files that they name, can't be used.
        """
        read_config(cfg.data, cfg.config_yaml)
        if getattr(cfg, "multitask_config_yaml", None) and not (Path(cfg.data) / cfg.multitask_config_yaml).is_file():
            raise OptionError(
                "--multitask-config-yaml must name a YAML file in DATA; there is no file "
                f"{Path(cfg.data) / cfg.multitask_config_yaml}"
            )
        return super().setup_task(cfg, **kwargs)

    @classmethod
    def command_problems(cls, command: CommandLine) -> List[str]:
        config = read_config(command.get("task", "data"), command.get("task", "config_yaml"))
        prefix_size, eos_token = (command.get("generation", name) for name in ("prefix_size", "eos_token"))
        problems = super().command_problems(command) + language_tag_problems(config, prefix_size or 0, eos_token)
        for option in ("print_alignment", "replace_unk"):
            if command.get("generation", option) is not None:
                name = option.replace("_", "-")
                problems.append(f"--{name} needs words in the source, and speech has none; leave it out")
        return problems

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = super().build_model(cfg, from_checkpoint)
        mine = model.state_dict()

        def check(state_dict: Dict[str, Any], prefix: str, *unused: Any) -> None:
            for name in _READ_FEATURES:
                saved = state_dict.get(prefix + name)
                if saved is not None and name in mine and saved.size(1) != mine[name].size(1):
                    raise CheckpointMismatchError(
                        "--config-yaml must have the features that the model was trained with; "
                        f"{self._features()}, and {name} has {saved.size(1)} inputs in the checkpoint and "
                        f"{mine[name].size(1)} for these"
                    )

        model._register_load_state_dict_pre_hook(check)
        return model

    def _features(self) -> str:
        found = self.data_cfg.input_feat_per_channel, self.data_cfg.input_channels
        return "input_feat_per_channel is {} and input_channels is {}".format(*found)

    def build_tokenizer(self, args: Any) -> Any:
        return self._tokenizer("pre_tokenizer", super().build_tokenizer, args)

    def build_bpe(self, args: Any) -> Any:
        return self._tokenizer("bpe_tokenizer", super().build_bpe, args)

    def _tokenizer(self, setting: str, build: Any, args: Any) -> Any:
        try:
            return build(args)
        except (Exception, SystemExit) as error:  # tokenizers fail in many ways
            raise OptionError(
                f"{setting} of --config-yaml must be one that fairseq can set up; it is "
                f"{self.data_cfg.config.get(setting)}: {summary_of(error)}"
            ) from error

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Loads a split as stock does.

        Raises:
            OptionError: there is no such split.
            FairseqElError: its manifest can't be used.
        """
        if self.reads_a_checkpoint:
            for name in split.split(","):
                check_manifest(self.args.data, name, self.data_cfg.config, self.tgt_dict)
        super().load_dataset(split, epoch, combine, **kwargs)
        if self.reads_a_checkpoint:
            self.datasets[split] = CheckedFeatures(self.datasets[split], self._width())

    def get_interactive_tokens_and_lengths(
        self, lines: Sequence[str], encode_fn: Any
    ) -> Tuple[Sequence[str], List[int]]:
        """Takes lines with paths of features, and counts their frames.

        Raises:
            FairseqElError: there are no features.
        """
        lengths = []
        for line in lines:
            try:
                lengths.append(len(get_features_or_waveform(line)))
            except Exception as error:  # numpy and zip files raise many kinds
                raise FairseqElError(
                    f"Lines must be paths of features, FILE.npy or FILE.zip:OFFSET:LENGTH; {line} can't be read: "
                    f"{summary_of(error)}"
                ) from error
        return lines, lengths

    def build_dataset_for_inference(self, src_tokens: Any, src_lengths: Any, **kwargs: Any) -> Any:
        return CheckedFeatures(super().build_dataset_for_inference(src_tokens, src_lengths, **kwargs), self._width())

    def _width(self) -> int:
        return int(self.data_cfg.input_feat_per_channel * self.data_cfg.input_channels)
