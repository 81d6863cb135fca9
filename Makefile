# One word for each thing that a developer runs.
.PHONY: check fast lowest docs
check:  ## what CI runs, in a fresh environment
	.ci/run
fast:  ## format, lint, types and the quick tests, in this environment
	.ci/run fast
lowest:  ## the quick tests with the oldest versions that setup.cfg asks for, on Python 3.11
	.ci/run lowest
