"""Videos to frames: which ones, at what size, decoded in a process of its own, and their subtitles."""
