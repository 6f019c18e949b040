from foreign_model import decoder, model_dir, tokenizer

__all__ = ["decoder", "model_dir", "tokenizer"]
