"""The table of orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Create it."""

    initial = True
    operations = [  # noqa: RUF012 -- as Django writes it
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("trace", models.CharField(max_length=100)),
                ("task_id", models.CharField(max_length=100)),
                ("confirmation", models.TextField(blank=True)),
            ],
        )
    ]
