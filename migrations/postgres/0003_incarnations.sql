-- Incarnations are random now: a sequence goes back when the database is taken back to an earlier point,
-- and would give the number of a gateway that runs to another one.
DROP SEQUENCE incarnations;
