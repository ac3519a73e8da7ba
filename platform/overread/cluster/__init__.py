"""Ray: a session, tasks with a progress bar, and a trial as a Tune function or a Ray Train worker group."""
