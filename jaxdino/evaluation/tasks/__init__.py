"""Evaluation of runs whose answers are masks, depths, boxes or objects: one report, to which each task adds its own."""
