"""A package, so that its helpers are found before those of an official detectron2 checkout."""
