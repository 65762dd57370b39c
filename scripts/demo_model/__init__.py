"""Everything behind train_demo_model.py: data, vocabulary, network, optimiser, export."""
