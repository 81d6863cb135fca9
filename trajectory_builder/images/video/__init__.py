"""Reading of video files for both packages: the stream, its frames, their colours and times."""
