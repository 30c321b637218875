"""Many documents absorbed on many machines: where they come from, who is given which, and where memories are put."""
