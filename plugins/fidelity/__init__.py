"""Is a synthetic set like the real one, and new? Distances, copies, adherence."""
