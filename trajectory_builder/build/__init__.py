"""From a plan to files: shards, markers, resume, workers and the record of a build."""
