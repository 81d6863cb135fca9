# One word for each thing that a developer runs.
.PHONY: check fast docs
check:  ## what CI runs, in a fresh environment
	.ci/run
fast:  ## format, lint, types and the quick tests, in this environment
	.ci/run fast
