"""How overpersonalized is a split? See docs/diagnose.md."""
