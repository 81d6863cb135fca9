"""What trainers read unchanged: one module a target, each with one public function."""
