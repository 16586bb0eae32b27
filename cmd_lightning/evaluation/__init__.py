"""The clips that `evaluate` compares: shards, folders and arrays, each clip exactly once; training needs none of it."""
