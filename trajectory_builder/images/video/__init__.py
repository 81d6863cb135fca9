"""Reading and writing of video files, for both packages: streams, frames, colours, times."""
