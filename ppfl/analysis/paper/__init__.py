"""The paper's figures: what theory predicts, drawn beside what was run."""
