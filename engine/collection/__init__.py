"""A collection: a run to which rows are added and from which rows are taken, whose clusters keep their ids."""
