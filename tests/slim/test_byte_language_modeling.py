from __future__ import annotations

import argparse
import math

import pytest
import torch
from fairseq.data.encoders.bytes import Bytes

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.slim.tasks import ByteLanguageModelingTask, byte_dictionary, split_of


def make_task(data, length=10):
    return ByteLanguageModelingTask.setup_task(
        argparse.Namespace(data=str(data), tokens_per_sample=length, byte_splits="50,30,20")
    )


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_every_byte_is_predicted_once_from_the_one_before(tmp_path, kind):
    content = bytes(range(256)) * 2
    if kind == "directory":
        for split, part in (("train", content[:256]), ("valid", content[256:400]), ("test", content[400:])):
            (tmp_path / f"book.{split}.txt").write_bytes(part)
        data = tmp_path
    else:
        data = tmp_path / "book"
        data.write_bytes(content)
    task = make_task(data)
    read = b""
    for split in ("train", "valid", "test"):
        task.load_dataset(split)
        dataset, before = task.dataset(split), task.dictionary.eos()
        for index in range(len(dataset)):
            item = dataset[index]
            assert len(item["target"]) == dataset.size(index) <= 10
            assert torch.equal(item["source"], torch.cat([torch.tensor([before]), item["target"][:-1]]))
            before = int(item["target"][-1])
            read += bytes((item["target"] - task.dictionary.nspecial).tolist())
    assert read == content


def test_symbols_are_those_that_fairseq_encodes_text_with():
    """What fairseq-interactive makes of text are the bytes of the file."""
    dictionary, text = byte_dictionary(), "Zwei Kühe, 2 €"
    assert len(dictionary) == dictionary.nspecial + 256
    encoded = dictionary.encode_line(Bytes.encode(text), append_eos=False, add_if_not_exist=False)
    assert bytes((encoded - dictionary.nspecial).tolist()) == text.encode()
    assert Bytes.decode(dictionary.string(encoded)) == text


def test_a_batch_is_padded_on_the_right(tmp_path):
    (tmp_path / "train").write_bytes(b"abcdefghijklmn")
    task = make_task(tmp_path)
    task.load_dataset("train")
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])
    assert batch["target"].ne(task.dictionary.pad()).sum(dim=1).tolist() == [10, 4] and batch["ntokens"] == 14


@pytest.mark.parametrize("size", [30, 90, 125])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_training_reads_every_byte(tmp_path, size, batch_size):
    """fairseq 0.12.3 would drop the last batch, and with it all of a set that is no whole batch."""
    (tmp_path / "train").write_bytes(bytes(size))
    task = make_task(tmp_path)
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.dataset("train"), max_sentences=batch_size, required_batch_size_multiple=8, seed=1
    ).next_epoch_itr()
    read = [batch["ntokens"] for batch in batches]
    assert sum(read) == size and len(read) == math.ceil(math.ceil(size / 10) / batch_size)


@pytest.mark.parametrize(
    ("data", "length", "message"),
    [
        ("book", 0, "--tokens-per-sample must be at least 1, and more than a --context-window.*; what is left is 0"),
        ("book", -5, "--tokens-per-sample must be at least 1, and more than a --context-window.*; what is left is -5"),
        (None, 10, "DATA must be a file, or a directory of files; none is given"),
        ("", 10, "DATA must be a file, or a directory of files; none is given"),
    ],
)
def test_options_that_make_no_task(data, length, message):
    with pytest.raises(OptionError, match=message):
        ByteLanguageModelingTask.setup_task(argparse.Namespace(data=data, tokens_per_sample=length, byte_splits=""))


def test_samples_longer_than_the_model_reads_are_not_evaluated(tmp_path):
    """fairseq would leave them out: a loss of 0, or of the last sample alone if it is short."""
    (tmp_path / "valid").write_bytes(bytes(25))
    task = make_task(tmp_path)
    task.load_dataset("valid")
    with pytest.raises(OptionError, match=r"at most what the model reads, 9; it is 10\. Give .* --tokens-per-sample 9"):
        task.eval_lm_dataloader(task.dataset("valid"), batch_size=2, max_positions=9)
    with pytest.raises(OptionError, match=r"at most what the model reads, 14; it is 15"):
        task.eval_lm_dataloader(task.dataset("valid"), batch_size=2, max_positions=14, context_window=5)
    batches = list(task.eval_lm_dataloader(task.dataset("valid"), batch_size=2, max_positions=10, num_workers=0))
    assert sum(batch["ntokens"] for batch in batches) == 25


def test_splits_that_are_not_there(tmp_path):
    with pytest.raises(FairseqElError, match="DATA must be a file, or a directory of files; there is no"):
        split_of(tmp_path / "nothing", "train", "90,5,5")
    with pytest.raises(FairseqElError, match=r"must have one file for valid, named valid.*; it has none"):
        split_of(tmp_path, "valid", "90,5,5")
    (tmp_path / "a.valid.txt").write_bytes(b"a")
    (tmp_path / "valid").write_bytes(b"")
    with pytest.raises(FairseqElError, match=r"it has a.valid.txt, valid"):
        split_of(tmp_path, "valid", "90,5,5")
    (tmp_path / "a.valid.txt").unlink()
    with pytest.raises(FairseqElError, match=r"the split valid of .* is empty"):
        split_of(tmp_path, "valid", "90,5,5")
    with pytest.raises(FairseqElError, match="there is no dev"):
        split_of(tmp_path / "valid", "dev", "90,5,5")


@pytest.mark.parametrize(
    ("shares", "ends"),
    [
        ("64.1,28.2,7.7", [641, 923, 1000]),  # floats: 100.00000000000001, or 99.99999999999999
        ("33.3, 33.3, 33.4", [333, 666, 1000]),
        ("0.1,0.2,99.7", [1, 3, 1000]),
        ("0.7,0.1,0.2", [7, 8, 10]),
    ],
)
def test_shares_are_exact(tmp_path, shares, ends):
    (tmp_path / "book").write_bytes(bytes(1000))
    found = [split_of(tmp_path / "book", split, shares)[1:] for split in ("train", "valid", "test")]
    assert found == list(zip([0, *ends], ends))


@pytest.mark.parametrize(
    "shares", ["90,5", "a,b,c", "50,30,30", "-5,5,5", "0,0,0", "nan,5,5", "1e1,5,5", "90 ,5, 5 1", "90,5,5,"]
)
def test_shares_that_make_no_splits(tmp_path, shares):
    (tmp_path / "book").write_bytes(b"a")
    with pytest.raises(OptionError, match=rf"--byte-splits must be three percentages .*; it is {shares}"):
        split_of(tmp_path / "book", "train", shares)
