"""Operations on the masks of a field, before it is painted."""
