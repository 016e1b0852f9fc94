"""What every report says of its own reach."""

LIMITS = (
  (
    "What counts as evidence",
    "The measure of forgetting is nearness to the retrained model: one trained "
    "anew on everything but the rows to be forgotten. Agreement with it in "
    "several measures and attacks, over several seeds, is evidence that the rows "
    "have left little behind. It is evidence, not a guarantee; and less of it "
    "where the original came by another recipe, as a given checkpoint may.",
  ),
  (
    "Low accuracy on the forgotten rows is no proof",
    "A model can be wrong about these rows and still carry information on "
    "them. A model that is wrong about them more often than one that never saw "
    "them stands out by just that.",
  ),
  (
    "An attack that fails is no proof",
    "It shows that this one attack failed. A stronger attack, or one that sees "
    "the model before and after, may succeed.",
  ),
  (
    "What lies outside",
    "The report speaks of the models, data and requests that were measured. It "
    "says nothing of copies, backups, logs or models derived from the original "
    "one.",
  ),
)
# Where no model was trained without the rows.
LIMITS_UNSEEN = (
  (
    "What counts as evidence",
    "The measure of forgetting is likeness to rows of the same kind that no model "
    "was trained on. It presumes that those come from where the others came; rows "
    "that are easier or harder than they seem pass or fail by that alone. It is "
    "evidence, not a guarantee.",
  ),
  *LIMITS[1:],
)
