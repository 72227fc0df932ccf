"""Several processes for one job, on engines that exist: torch's elastic agent, and Ray."""

from fairseq_el.workers.local import SignalledError, WorkerError, refuse_too_many_workers, run_workers
from fairseq_el.workers.on_ray import decode_on_ray

__all__ = ["SignalledError", "WorkerError", "decode_on_ray", "refuse_too_many_workers", "run_workers"]
