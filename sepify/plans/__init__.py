"""What a plan is: for each convolution what it becomes, and why; its file, its costs, budgets."""
