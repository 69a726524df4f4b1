"""Alignment: an adapter that moves a base's pictures to a reward, such as a seamless tile."""
