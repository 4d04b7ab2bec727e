"""Schema, argument checks and public function of every op, one file per stem."""
