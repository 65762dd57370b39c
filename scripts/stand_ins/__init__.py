"""What stands in for the hub and for real weights, where neither can be had."""
