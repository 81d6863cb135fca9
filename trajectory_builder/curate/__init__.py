"""Tools on manifests: stats, select, split, merge, diff; each a module with one public function."""
