"""Whether two answers are the same: words, choices, places of images, numbers, formulas and units."""
