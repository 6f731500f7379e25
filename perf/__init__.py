"""Speed, measured: every module has ``run(quick) -> list of rows`` and runs alone."""
