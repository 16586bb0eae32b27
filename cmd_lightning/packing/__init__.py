"""From folders of clips, tables of captions and public data sets to shards; training from shards needs none of it."""
