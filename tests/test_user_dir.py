from __future__ import annotations

import os

from fairseq_el._user_dir import other_spellings


def test_only_other_names_of_the_same_directory(tmp_path):
    site = tmp_path / "site"
    for directory in ("fairseq", "fairseq_el"):
        (site / directory).mkdir(parents=True)
    link = tmp_path / "link" / "fairseq_el"
    link.parent.mkdir()
    link.symlink_to(site / "fairseq_el")
    beside_fairseq = os.path.join(str(site / "fairseq"), "..", "fairseq_el")
    assert other_spellings(str(site / "fairseq_el"), str(site / "fairseq")) == [beside_fairseq]
    assert other_spellings(str(link), str(site / "fairseq")) == [str(site / "fairseq_el"), beside_fairseq]

    copy = tmp_path / "copy" / "fairseq_el"
    copy.mkdir(parents=True)
    assert other_spellings(str(copy), str(site / "fairseq")) == []
