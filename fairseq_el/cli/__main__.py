"""``python -m fairseq_el.cli``: for where the console script is not on the PATH."""

import sys

from fairseq_el.cli import main

sys.exit(main())
