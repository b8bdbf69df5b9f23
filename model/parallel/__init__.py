"""A training run of several processes: who starts them, what they share, how gradients meet.

torch starts them (`torch.distributed.launcher`) and torch joins them (`torch.distributed`, DDP,
FSDP2, `torch.distributed.checkpoint`); what is here says which of it a run declared. `group` is the
seam: the trainer asks a `Group` at each place where a run of several ranks does something else, and
a run of one process gets the neutral one.
"""
