"""The suite is run by the tests here, on a machine of its own; it is not one of them."""

collect_ignore = ["suite"]
