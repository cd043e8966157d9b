"""What has become of the runs of a grid: `survey` reads it, `view` shows it, `watch` keeps showing it."""
