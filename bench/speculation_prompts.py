"""Texts for ``bench.speculation``: what a small model copies from, and what it does not."""

_REPORT = """\
The Harlow Bridge was closed to traffic on Monday after inspectors found cracks in two of its \
eleven steel hangers. The bridge, which opened in 1968 and carries about 14,000 vehicles a day, \
is the only crossing of the River Wend between Marlow and the coast. The county council said \
that the cracks were found during a routine inspection and that nobody was in danger at any \
time. Engineers from the firm Oakes and Pritchard will replace both hangers, at a cost of about \
1.2 million pounds. The work is expected to take nine weeks. Until then, drivers are asked to \
use the ferry at Saltby, which will run every twenty minutes from six in the morning until \
midnight. "We know that this is hard for everybody who lives on the east bank," said the \
council's leader, Ruth Adeyemi, "but safety comes first, and we will reopen the bridge as soon \
as the engineers tell us that we can."
"""

_CODE = """\
def load_orders(path):
    orders = []
    with open(path) as file:
        for line in file:
            customer, item, quantity, price = line.strip().split(",")
            orders.append(
                {
                    "customer": customer,
                    "item": item,
                    "quantity": int(quantity),
                    "price": float(price),
                }
            )
    return orders


def total_by_customer(orders):
    totals = {}
    for order in orders:
        customer = order["customer"]
        amount = order["quantity"] * order["price"]
        totals[customer] = totals.get(customer, 0.0) + amount
    return totals
"""

_LETTER = """\
Dear Ms Okafor, thank you for your order of 3 May. The two oak chairs (article 4417) left our \
warehouse this morning and should reach you by Thursday. The matching table (article 4420) is \
out of stock until 21 May. You can wait for it, change it for the round table (article 4425) at \
no cost, or have your money back. Please tell us by Friday which you prefer. Kind regards, Tomas \
Lind, Lind and Daughters Furniture"""

COPYING = {
    "summary": f"Summarize the following text in its own words.\n\n{_REPORT}",
    "extract": f"Repeat every sentence of the text that contains a number.\n\n{_REPORT}",
    "code edit": "Rename the function `load_orders` to `read_orders` and write the whole program "
    f"again.\n\n```python\n{_CODE}```",
    "code with comments": "Write this program again with a docstring in each function.\n\n"
    f"```python\n{_CODE}```",
    "chat with quotes": f'I got this letter:\n\n"{_LETTER}"\n\nQuote the part about the chairs and '
    "the part about the table word for word, then say what I should do.",
    "correct a text": f"Correct the spelling and write the text again.\n\n{_LETTER}",
}

VERSE = """\
First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.

"""
