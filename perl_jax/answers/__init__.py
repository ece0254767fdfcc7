"""Answer equivalence: choices, text, image references, orders, numbers, formulas and units."""
