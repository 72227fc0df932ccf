"""Text in, text out: in input order, and to be resumed after a crash."""
