"""Studies built from campaigns. Each one runs campaigns and reads their stores."""
