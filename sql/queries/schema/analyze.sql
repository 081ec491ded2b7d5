-- Tells the planner how large these tables are. What somebody else is just telling is passed over.
analyze (skip_locked) jobs, attempts, dependencies
