"""The operators ``torch.ops.fastrnn.*``: schemas and fakes, their arguments, their derivatives."""
