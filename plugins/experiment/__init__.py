"""The protocol of the MSDM paper on any data set: a plan, its steps, and what runs and reports them."""
