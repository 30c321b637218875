"""Starting points that come with Lift, a directory each (see lift.adapters.starting_point)."""
