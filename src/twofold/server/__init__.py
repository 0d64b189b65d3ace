"""The company's server: who may run which image, who holds a workspace now, and the sealed chunks. Never a plain byte."""
