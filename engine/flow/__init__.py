"""The data flow: which steps a run or a training has, in their order, and what each of them reads."""
