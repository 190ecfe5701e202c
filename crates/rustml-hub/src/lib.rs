//! Model names to local files: download, cache, list, remove.
