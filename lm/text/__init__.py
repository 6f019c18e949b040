"""Between text and token ids: tokenizers, chats, text that grows token by token."""
