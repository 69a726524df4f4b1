"""The pictures of a training: the set, its captions, a captioner and the preview of crops."""
