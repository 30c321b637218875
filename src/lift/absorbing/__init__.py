"""Document -> memory: the plan, the run, its clock, later updates, the recall report."""
