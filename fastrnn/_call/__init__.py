"""A call on its way: arguments checked and brought into one form, modifiers, the one loop over layers."""
