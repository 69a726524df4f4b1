"""The part of the tab Train for pictures: sets, captions, a captioner and the preview of crops."""
