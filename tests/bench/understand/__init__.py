"""How much the untrained local model understands, judged by outcome."""
